"""From an adapter and a budget to a compressed one: requests, plans, fits, and the rate that they are held to."""
