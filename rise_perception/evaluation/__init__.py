"""How good masks are: COCO AP, overlap and boundary measures, overlays, plots and report pages."""
