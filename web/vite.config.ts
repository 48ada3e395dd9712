import { defineConfig } from 'vite'

// One page, one script and one style sheet under fixed names: they are committed, and the program
// that holds them serves them by name. Paths are relative, so that a proxy may put them anywhere.
export default defineConfig({
  base: './',
  build: {
    target: 'es2022',
    outDir: '../crates/desk/dist',
    emptyOutDir: true,
    modulePreload: false,
    assetsInlineLimit: 0,
    rollupOptions: {
      output: { entryFileNames: 'app.js', assetFileNames: 'app.[ext]', codeSplitting: false },
    },
  },
})
