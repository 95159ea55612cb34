"""What a block is made of: observations and actions as tokens. Today one image and one discrete action."""
