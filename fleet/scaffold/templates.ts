/**
 * What a new service consists of: one stateful method, its tests and its words, from the texts in template/. In them no line's length may
 * depend on the name beyond what the formatter lets stand; a test formats the shortest and the longest name.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'

/** Paths from the root of a checkout, and their texts. */
export function serviceFiles(name: string): ReadonlyMap<string, string> {
  const text = (template: string) =>
    readFileSync(join(import.meta.dirname, 'template', `${template}.txt`), 'utf8')
      .replaceAll('{{name}}', name)
      .replaceAll('{{Name}}', rpcName(name))
  return new Map([
    [`services/${name}/service.ts`, text('service.ts')],
    [`services/${name}/manifest.json`, text('manifest.json')],
    [`services/${name}/README.md`, text('README.md')],
    [`services/${name}/CHANGELOG.md`, text('CHANGELOG.md')],
    [`proto/offbox/v1/${name}.proto`, text('service.proto')],
    [`test/services/${name}/${name}.test.ts`, text('service.test.ts')],
  ])
}

/** Name of its gRPC service: "link-watch" becomes "LinkWatch". */
export function rpcName(name: string): string {
  return name
    .split('-')
    .map((word) => word.slice(0, 1).toUpperCase() + word.slice(1))
    .join('')
}
