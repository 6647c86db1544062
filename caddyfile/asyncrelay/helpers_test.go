package asyncrelay

import "flag"

var update = flag.Bool("update", false, "write the current results to the golden files")
