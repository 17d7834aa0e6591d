#!/usr/bin/env bash
# Prints an SBOM of an image that was built from deploy/Containerfile: SPDX 2.3 as JSON, of the Debian packages that are
# really in it, as its own dpkg knows them, and of the service.
#   scripts/sbom.sh service-a:0.2.0 >service-a.spdx.json
# env ENGINE: podman (default) or docker
set -euo pipefail
. "$(dirname "$0")/usage.sh"

if (($# != 1)); then
  usage >&2
  exit 2
fi
engine=${ENGINE:-podman}
# shellcheck disable=SC2016  # for the shell, and the dpkg-query, in the image
list='. /etc/os-release; echo $ID-$VERSION_ID
      dpkg-query --show --showformat "\${Package}\t\${Version}\t\${Architecture}\t\${source:Package} \${source:Version}\n"'
"$engine" run --rm --network none --no-healthcheck --entrypoint sh "$1" -c "$list" |
  jq --raw-input --slurp --argjson image "$("$engine" image inspect "$1")" --arg now "$(date -u +%Y-%m-%dT%H:%M:%SZ)" '
    $image[0] as $image | ($image.Config.Labels | with_entries(.key |= ltrimstr("org.opencontainers.image."))) as $labels
    | ($image.Id | ltrimstr("sha256:")) as $id
    | split("\n") as [$distribution] | (split("\n")[1:-1] | map(split("\t"))) as $debian
    | {
        spdxVersion: "SPDX-2.3", dataLicense: "CC0-1.0", SPDXID: "SPDXRef-DOCUMENT", name: "\($labels.title)-\($labels.version)",
        documentNamespace: "https://spdx.org/spdxdocs/\($labels.title)-\($labels.version)-\($id)",
        creationInfo: { created: $now, creators: ["Tool: sbom.sh"] },
        packages: ([{
          SPDXID: "SPDXRef-image", name: $labels.title, versionInfo: $labels.version, primaryPackagePurpose: "CONTAINER",
          supplier: "Organization: the two-services authors", copyrightText: "2026 the two-services authors",
          licenseConcluded: "NOASSERTION", licenseDeclared: $labels.licenses, filesAnalyzed: false,
          sourceInfo: "revision \($labels.revision)",
          downloadLocation: (if $labels.source | . == null or . == "" then "NOASSERTION" else $labels.source end)
        }] + [$debian[] | {
          SPDXID: "SPDXRef-\(.[0] | gsub("[^A-Za-z0-9.]"; "-"))", name: .[0], versionInfo: .[1],
          supplier: "Organization: Debian", sourceInfo: "built from \(.[3])", comment: "licences: /usr/share/doc/\(.[0])/copyright",
          licenseConcluded: "NOASSERTION", licenseDeclared: "NOASSERTION", copyrightText: "NOASSERTION",
          filesAnalyzed: false, downloadLocation: "NOASSERTION",
          externalRefs: [{
            referenceCategory: "PACKAGE-MANAGER", referenceType: "purl",
            referenceLocator: "pkg:deb/debian/\(.[0] | @uri)@\(.[1] | @uri)?arch=\(.[2])&distro=\($distribution)"
          }]
        }]),
        relationships: (
          [{ spdxElementId: "SPDXRef-DOCUMENT", relationshipType: "DESCRIBES", relatedSpdxElement: "SPDXRef-image" }]
          + [$debian[] | { spdxElementId: "SPDXRef-image", relationshipType: "CONTAINS",
                           relatedSpdxElement: "SPDXRef-\(.[0] | gsub("[^A-Za-z0-9.]"; "-"))" }])
      }'
