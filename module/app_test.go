package module_test

import (
	"fmt"
	"testing"
)

// Words of RELAY_DISABLE that switch nothing off are logged once, at the start.
func TestUnknownWordsInRelayDisable(t *testing.T) {
	backend, _ := echoTCP(t, "b")
	config := block("relay+tcp/"+freeAddr(t), backend)
	for list, unknown := range map[string]string{"": "", "gso,splice": "", "gso,splce, GSO": "[splce GSO]"} {
		t.Run(list, func(t *testing.T) {
			t.Setenv("RELAY_DISABLE", list)
			s := start(t, config)
			s.mustReload(config)
			lines := s.lines("unknown words in RELAY_DISABLE")
			switch {
			case unknown == "" && len(lines) > 0:
				t.Errorf("logged %v", lines)
			case unknown != "" && (len(lines) != 1 || fmt.Sprint(lines[0]["unknown"]) != unknown || lines[0]["level"] != "error"):
				t.Errorf("logged %v, want one error line with %s", lines, unknown)
			}
		})
	}
}
