"""What everything is made of: adapters, bases, compressed adapters, budgets, and the linear algebra on them."""
