"""Tests that programs of other people make of the API. `./run foreign` runs them."""
