"""Frozen flows: copies for acting, without autograd."""
