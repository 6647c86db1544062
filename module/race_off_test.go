//go:build !race

package module_test

const raceDetector = false
