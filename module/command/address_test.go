package command

import (
	"strings"
	"testing"
)

func TestAdminAddress(t *testing.T) {
	t.Setenv("CADDY_ADMIN", "")
	for given, want := range map[string]string{
		"localhost:2020": "localhost:2020", "localhost": "localhost:2019", ":2020": "localhost:2020", "2020": "localhost:2020",
		"10.0.0.1": "10.0.0.1:2019", "::1": "[::1]:2019", "[::1]": "[::1]:2019", "[::1]:2020": "[::1]:2020",
		"http://localhost": "localhost:2019", "http://localhost:2020/": "localhost:2020", "http://[::1]:2020": "[::1]:2020",
		"tcp/localhost": "tcp/localhost:2019", "unix//run/caddy.sock": "unix//run/caddy.sock", "x:y:z": "x:y:z", "": "localhost:2019",
	} {
		if got, err := adminAddress(given); err != nil || got != want {
			t.Errorf("%q: got %q, %v, want %q", given, got, err, want)
		}
	}
	for given, want := range map[string]string{"https://a": "plain HTTP", "http://a/relay": "must not have a path", "http://": "must be the address"} {
		if got, err := adminAddress(given); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %q, %v, want %q", given, got, err, want)
		}
	}
}
