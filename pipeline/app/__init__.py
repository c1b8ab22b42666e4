"""The page: a browser's view of a trained run, in which a face can be dropped, turned, and put into words."""
