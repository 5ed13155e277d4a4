"""The vocabulary that every room speaks: frames, instances, errors, camera geometry, masks, files."""
