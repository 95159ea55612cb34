"""Tokenizers: an observation into tokens, tokens into codes, and back."""
