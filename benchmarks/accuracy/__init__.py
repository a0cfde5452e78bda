"""How well models learn real data: fixed recipes, in minidl and in PyTorch."""
