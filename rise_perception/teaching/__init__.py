"""From a handful of annotated pictures to a model of this cell: `rise teach`."""
