// Checks Dockerfiles with BuildKit's own linter, as `docker build --check` does, but without an engine or a network:
// every base image is taken for a plain Linux one. deploy/check builds and runs it.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/appcontext"
	digest "github.com/opencontainers/go-digest"
)

type anyImage struct{}

func (anyImage) ResolveImageConfig(_ context.Context, ref string, _ sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	config := []byte(`{"architecture": "amd64", "os": "linux", "config": {"Env": ["PATH=/usr/bin:/bin"]}}`)
	return ref, digest.FromBytes(config), config, nil
}

func main() {
	failed := false
	for _, path := range os.Args[1:] {
		text, err := os.ReadFile(path)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		sourceMap := llb.NewSourceMap(nil, path, "Dockerfile", text)
		sourceMap.Definition = &llb.Definition{}
		caps := pb.Caps.CapSet(pb.Caps.All())
		results, err := dockerfile2llb.DockerfileLint(appcontext.Context(), text, dockerfile2llb.ConvertOpt{
			SourceMap:    sourceMap,
			MetaResolver: anyImage{},
			LLBCaps:      &caps,
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		for _, warning := range results.Warnings {
			line := int32(0)
			if ranges := warning.Location.GetRanges(); len(ranges) > 0 {
				line = ranges[0].Start.Line
			}
			fmt.Printf("%s:%d: %s: %s\n", path, line, warning.RuleName, warning.Detail)
			failed = true
		}
		if results.Error != nil {
			fmt.Printf("%s: %s\n", path, results.Error.Message)
			failed = true
		}
	}
	if failed {
		os.Exit(1)
	}
}
