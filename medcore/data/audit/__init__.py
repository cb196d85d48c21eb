"""The leakage audit: copies, links, shortcuts, findings, and how to correct a split."""
