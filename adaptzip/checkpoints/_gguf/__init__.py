"""What llama.cpp's files share, LoRAs and base models: the container, and names of tensors."""
