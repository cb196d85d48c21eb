"""Random changes of training images, one recipe, on the device."""
