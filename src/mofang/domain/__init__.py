"""The nouns of Mofang: frozen values, validated when they are made, without any input or output."""
