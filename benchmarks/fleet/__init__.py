"""Fleets, many adapters of one base: trained ones, made-up ones, and what methods make of them all."""
