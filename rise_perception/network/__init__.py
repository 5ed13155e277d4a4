"""The network: Deformable DETR with a mask head and a contrastive head, in pure PyTorch."""
