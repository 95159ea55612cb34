"""Plain PyTorch that reads as the paper: retention, RetNet with POP, and what else the parts are made of."""
