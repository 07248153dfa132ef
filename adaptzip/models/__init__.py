"""Base models: their folders and configurations, the names of their modules, how weights lie, and what is added."""
