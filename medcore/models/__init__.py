"""What each network is; nothing about training it."""
