"""The demo: see what a Longformer looks at, in a long document, in the browser. It needs the extra `demo`."""
