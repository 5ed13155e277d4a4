"""Where images come from: COCO files, folders, OCID, bags and ROS image encodings."""
