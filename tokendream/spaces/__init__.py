"""What a block is made of: observations and actions as tokens, whatever the environment."""
