import { runNamed } from '../../fleet/lab/run-named.mjs'

await runNamed('test/drill', 'drill')
