package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestInsert(t *testing.T) {
	document := "above\n" + beginMark("run") + "old\n" + endMark("run") + "\nbelow\n" + beginMark("aims") + endMark("aims") + "\n"
	want := "above\n" + beginMark("run") + "new\n" + endMark("run") + "\nbelow\n" + beginMark("aims") + endMark("aims") + "\n"
	if got, err := insert(document, "run", "new\n"); err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	for _, missing := range []string{"", "no marks", beginMark("run"), endMark("run")} {
		if got, err := insert(missing, "run", "new\n"); err == nil {
			t.Errorf("no error without marks, got %q", got)
		}
	}
}

// A document that lacks a part is left as it is.
func TestRewriteMissingPart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "doc.md")
	before := beginMark("run") + "old\n" + endMark("run") + "\n"
	if err := os.WriteFile(file, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := rewrite(file, map[string]string{"run": "new\n", "aims": "x\n"}); err == nil {
		t.Error("no error without the part")
	}
	if after, err := os.ReadFile(file); err != nil || string(after) != before {
		t.Errorf("the file is %q, %v", after, err)
	}
	if err := rewrite(file, map[string]string{"run": "new\n"}); err != nil {
		t.Error(err)
	}
	if after, _ := os.ReadFile(file); string(after) != beginMark("run")+"new\n"+endMark("run")+"\n" {
		t.Errorf("the file is %q", after)
	}
}
