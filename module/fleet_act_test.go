package module

import (
	"testing"

	"github.com/async-relay/caddy-relay/internal/fleet"
)

// A fault that only a newer version has begins no drill.
func TestUnknownFaultOfAnotherNode(t *testing.T) {
	if changed, err := new(service).repeat(fleet.Operation{Kind: fleet.Drill, On: true, Fault: "melt", Left: 1000, Force: true}, nil); err == nil || changed {
		t.Errorf("changed %v, error %v", changed, err)
	}
}
