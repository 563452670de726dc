// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// watchPeriod is how often --watch asks.
const watchPeriod = 2 * time.Second

// errWatchJSON is why a live table is no document.
var errWatchJSON = errors.New("--watch shows a table: it does not go with --output=json")

// live shows a table of what the agent knows: once, or again and again in place of the one before, until ctx ends, which is no
// failure then.
func live(ctx context.Context, to io.Writer, watch bool, show func(context.Context, io.Writer) error) error {
	if !watch {
		return show(ctx, to)
	}
	for {
		var screen bytes.Buffer
		err := show(ctx, &screen)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		if err := redraw(to, screen.Bytes()); err != nil {
			return err
		}
		if !wait(ctx, watchPeriod) {
			return nil
		}
	}
}

// unasked says what can be done about an agent that does not answer, or is not there.
func unasked(err error, socket string) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("no agent is running behind %s; start one with bridgewatch run", socket)
	}
	return unanswered(err, socket)
}

// Of a terminal (ECMA-48): cursor to the top, and erase all that is below.
const clearScreen = "\x1b[H\x1b[J"

// redraw shows a text in place of the one before, as far as it fits on the terminal: the most recent is at its top. What is no
// terminal gets all of it.
func redraw(to io.Writer, text []byte) error {
	height, _, found := terminalSize(to)
	if !found {
		_, err := to.Write(text)
		return err
	}
	shown := []byte(clearScreen)
	for line := range bytes.Lines(text) {
		if height--; height > 0 {
			shown = append(shown, line...)
		}
	}
	_, err := to.Write(shown)
	return err
}

func terminalSize(to io.Writer) (lines, columns int, found bool) {
	file, ok := to.(*os.File)
	if !ok {
		return 0, 0, false
	}
	size, err := unix.IoctlGetWinsize(int(file.Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Row == 0 || size.Col == 0 {
		return 0, 0, false
	}
	return int(size.Row), int(size.Col), true
}
