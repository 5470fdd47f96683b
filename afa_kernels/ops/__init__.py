"""The operations: contract, checks, dispatcher schema, fake kernel and autograd of each; no arithmetic."""
