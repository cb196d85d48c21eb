"""What stands beside a model that is handed on."""
