"""Programs compiled for accelerators that are not here, and what the compiler says of them."""
