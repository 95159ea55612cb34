"""World model, controller, both with a tokenizer as one agent, and the agent at play in the real environment."""
