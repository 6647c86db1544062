package caddyfile

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
)

func TestParsePayload(t *testing.T) {
	for text, want := range map[string]string{
		"":                              "",
		"PING":                          "PING",
		`PING\r\n`:                      "PING\r\n",
		`a\tb\\c`:                       "a\tb\\c",
		`\\n`:                           `\n`,
		`\x00\xfF\x41`:                  "\x00\xffA",
		`\x41B`:                         "AB",
		"\r\n\x00":                      "\r\n\x00", // JSON and heredocs can contain these bytes themselves
		"grün":                          "grün",
		`{"a":1}`:                       `{"a":1}`,
		"hex:0a0B":                      "\n\v",
		"hex:ff":                        "\xff",
		`\x68ex:ff`:                     "hex:ff",
		"HEX:ff":                        "HEX:ff",
		" hex:ff":                       " hex:ff",
		`hex`:                           "hex",
		"a hex:ff":                      "a hex:ff",
		`\x5cn`:                         `\n`,
		strings.Repeat("a", maxPayload): strings.Repeat("a", maxPayload),
		hexPrefix + strings.Repeat("61", maxPayload): strings.Repeat("a", maxPayload),
	} {
		if got, err := parsePayload(text); err != nil || string(got) != want {
			t.Errorf("%.40q: got %.40q, %v, want %.40q", text, got, err, want)
		}
	}
}

func TestParsePayloadRejects(t *testing.T) {
	const (
		inHex  = "must be pairs of hex digits after hex:, as in hex:0a0b, got "
		escape = `must use only the escapes \r, \n, \t, \\ and \xNN (two hex digits), got a backslash before `
	)
	for text, want := range map[string]string{
		"hex:":                            inHex + `"hex:"`,
		"hex:0":                           inHex + `"hex:0"`,
		"hex:0g":                          inHex + `"hex:0g"`,
		"hex:0a 0b":                       inHex + `"hex:0a 0b"`,
		`hex:\n`:                          inHex + `"hex:\\n"`,
		`a\`:                              `must not end with a single backslash; write \\ for a backslash`,
		`a\\\`:                            `must not end with a single backslash; write \\ for a backslash`,
		`\q`:                              escape + `'q'`,
		`a\N\n`:                           escape + `'N'`,
		`\0`:                              escape + `'0'`,
		`\{x`:                             escape + `'{'`,
		`\ü`:                              escape + `'ü'`,
		`\x`:                              escape + `'x'`,
		`\x4`:                             escape + `'x'`,
		`\x4g`:                            escape + `'x'`,
		`\xg4`:                            escape + `'x'`,
		`\X41`:                            escape + `'X'`,
		strings.Repeat("a", maxPayload+1): "must be at most 65507 bytes, got 65508",
	} {
		if got, err := parsePayload(text); err == nil || err.Error() != want || got != nil {
			t.Errorf("%.40q: got %.40q, %v, want %s", text, got, err, want)
		}
	}
}

func FuzzPayload(f *testing.F) {
	for _, text := range []string{"PING", `PING\r\n`, `\x00\t\\`, "hex:0a0b", "hex:0", `\`, `\x4`, `\q`, `\x68ex:ff`, "ü", ""} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		payload, err := parsePayload(text)
		if err != nil {
			if payload != nil {
				t.Fatalf("got %q with error %v", payload, err)
			}
			return
		}
		if len(payload) > len(text) || len(payload) > maxPayload || (len(payload) == 0) != (text == "") {
			t.Fatalf("%d bytes of %q", len(payload), text)
		}
		if !strings.Contains(text, `\`) && !strings.HasPrefix(text, hexPrefix) && string(payload) != text {
			t.Fatalf("got %q for plain text %q", payload, text)
		}
		// Every payload can be written with escapes and in hex.
		escaped := ""
		for _, b := range payload {
			escaped += `\x` + hex.EncodeToString([]byte{b})
		}
		if again, err := parsePayload(escaped); err != nil || !bytes.Equal(again, payload) {
			t.Fatalf("got %q, %v, want %q", again, err, payload)
		}
		if again, err := parsePayload(hexPrefix + hex.EncodeToString(payload)); text != "" && (err != nil || !bytes.Equal(again, payload)) {
			t.Fatalf("got %q, %v, want %q", again, err, payload)
		}
	})
}
