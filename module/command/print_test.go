package command

import "testing"

func TestFormatMilliseconds(t *testing.T) {
	for ms, want := range map[float64]string{
		0.016: "0.016ms", 0.1234: "0.123ms", 99.96: "100ms", 5000.123: "5000ms", 123456.7: "123457ms",
	} {
		if got := formatMilliseconds(ms); got != want {
			t.Errorf("%v: %s, want %s", ms, got, want)
		}
	}
}

func TestFormatBytes(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0B", 999: "999B", 1000: "1.0kB", 999_949: "999.9kB", 999_999: "1.0MB", 1 << 63: "9.2EB",
	} {
		if got := formatBytes(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
