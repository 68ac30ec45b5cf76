"""Its private part."""
