package asyncrelay

import "testing"

// TestWarningsNameTheFile also covers an adapter call without a file name, as
// over HTTP.
func TestWarningsNameTheFile(t *testing.T) {
	const body = "x: 1\nservices: [{name: a, listen: {address: '::', port: 1}, backends: ['a:1']}]\n"
	for file, options := range map[string]map[string]any{"config.yaml": {"filename": "config.yaml"}, "": nil} {
		_, warnings, err := newAdapter().Adapt([]byte(body), options)
		if err != nil || len(warnings) != 1 || warnings[0].File != file || warnings[0].Line != 1 || warnings[0].Directive != "x" {
			t.Errorf("%q: %v, %v", file, warnings, err)
		}
	}
}
