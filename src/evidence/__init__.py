"""Many runs from one list: packed on the devices at hand, gone on with after every interruption, recorded when done."""
