package caddyfile

import (
	"encoding/json"
	"fmt"
)

// Failback is the option failback. In JSON it is false, true or "move".
type Failback string

// The values of failback. The zero value is off.
const (
	FailbackOff  Failback = ""
	FailbackOn   Failback = "on"
	FailbackMove Failback = "move" // also takes the clients of the backends behind it away from them
)

// MarshalJSON implements json.Marshaler.
func (f Failback) MarshalJSON() ([]byte, error) {
	if f == FailbackMove {
		return json.Marshal(string(f))
	}
	return json.Marshal(f == FailbackOn)
}

// UnmarshalJSON implements json.Unmarshaler.
func (f *Failback) UnmarshalJSON(text []byte) error {
	switch string(text) {
	case "false", "null":
		*f = FailbackOff
	case "true":
		*f = FailbackOn
	case `"move"`:
		*f = FailbackMove
	default:
		return fmt.Errorf(`failback: must be false, true or "move", got %s`, text)
	}
	return nil
}

// word returns the value as a Caddyfile has it.
func (f Failback) word() string {
	if f == FailbackOff {
		return "off"
	}
	return string(f)
}
