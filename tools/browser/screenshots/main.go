package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/async-relay/caddy-relay/tools/browser/lab"
)

func main() {
	b, cancel, err := lab.Chrome(context.Background())
	if err != nil {
		panic(err)
	}
	defer cancel()
	for _, v := range []struct {
		name string
		view lab.View
	}{
		{"desk", lab.View{Width: 1440, Height: 900}},
		{"wide", lab.View{Width: 1920, Height: 1080}},
		{"dark", lab.View{Width: 1440, Height: 900, Dark: true}},
		{"phone", lab.View{Width: 390, Height: 844, Mobile: true}},
	} {
		tab, err := lab.Open(b, os.Args[1], v.view)
		if err != nil {
			panic(err)
		}
		if _, err := tab.Wait("window.relayPage?.ready", 5*time.Second); err != nil {
			fmt.Println(err)
		}
		time.Sleep(1500 * time.Millisecond)
		if err := tab.Shot("/tmp/page/shot-"+v.name+".png", true); err != nil {
			panic(err)
		}
		fmt.Println(v.name, tab.Problems())
		tab.Close()
	}
}
