package module

import "testing"

func TestInMilliseconds(t *testing.T) {
	for ms, want := range map[float64]string{
		0.016: "0.016ms", 0.1234: "0.123ms", 99.96: "100ms", 5000.123: "5000ms", 123456.7: "123457ms",
	} {
		if got := inMilliseconds(ms); got != want {
			t.Errorf("%v: %s, want %s", ms, got, want)
		}
	}
}
