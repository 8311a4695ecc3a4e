"""Would the tests notice if the heart were wrong? Each line of `core/` changed a little, one change at a time."""
