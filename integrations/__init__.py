"""One module for each library that LongformerPlus plugs into. Import the module you need; none is imported here."""
