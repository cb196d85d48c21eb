"""Images in: the PatchSet container, readers, phantoms, splits and the leakage audit."""
