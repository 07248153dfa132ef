"""What is said of adapters: descriptions, verifications, benchmarks and evaluations; none of them changes one."""
