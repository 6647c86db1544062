package caddyfile

import (
	"encoding/json"
	"testing"
)

// In JSON, failback is a boolean or "move".
func TestFailbackInJSON(t *testing.T) {
	for text, want := range map[string]Failback{"false": FailbackOff, "true": FailbackOn, `"move"`: FailbackMove, "null": FailbackOff} {
		var got struct{ Failback Failback }
		if err := json.Unmarshal([]byte(`{"Failback": `+text+`}`), &got); err != nil || got.Failback != want {
			t.Errorf("%s: %q, %v", text, got.Failback, err)
		}
		if back, err := json.Marshal(want); text != "null" && (err != nil || string(back) != text) {
			t.Errorf("%q is written as %s, %v", want, back, err)
		}
	}
	for _, text := range []string{`"on"`, `"off"`, "1", "{}"} {
		if err := json.Unmarshal([]byte(text), new(Failback)); err == nil {
			t.Errorf("%s was accepted", text)
		}
	}
}
