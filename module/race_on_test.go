//go:build race

package module_test

// raceDetector reports whether the tests run under the race detector, which makes
// objects larger.
const raceDetector = true
