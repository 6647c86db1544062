package caddyfile

import "testing"

func TestNearest(t *testing.T) {
	known := []string{"name", "protocol", "backends", "backend_cooldown"}
	for key, want := range map[string]string{
		"Protocol": "protocol", "protcol": "protocol", "backend": "backends", "backendcooldown": "backend_cooldown",
		"nmae": "name", "backneds": "backends", "weight": "", "x": "", "": "", "nme": "name", "tame": "name", "same_as": "", "protokolle": "",
	} {
		if got := Nearest(key, known); got != want {
			t.Errorf("%q: got %q, want %q", key, got, want)
		}
	}
}
