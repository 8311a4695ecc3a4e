"""The routes by what they are about; each file adds its own to the app, with what the document says of them."""
