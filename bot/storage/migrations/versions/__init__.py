"""One file a step of the schema, named by its number. A step that was released is never changed."""
